"""What a request may choose here: presets, orders, limits. The web page's form is built from it."""

from __future__ import annotations

from fastapi import APIRouter

from framepack.generation.orders import ORDERS
from framepack.generation.plan import GENERATION_CONFIGS, default_order
from service.api.deps import TheServices
from service.api.errors import documented
from service.api.image_decoder import MAX_SIDE, MIN_SIDE
from service.api.images import MAX_IMAGE_BYTES
from service.contract.job import JobRequest
from service.contract.options import ImageLimits, OptionsView, OrderView, PresetView, SizeView

router = APIRouter(tags=["jobs"])


@router.get("/options", responses=documented())
async def read_options(parts: TheServices) -> OptionsView:
    """What a request may choose here; the same for everybody, so without a key."""
    return OptionsView(
        presets=[_preset(name) for name in parts.settings.presets],
        orders=[
            OrderView(
                name=name,
                schedule=order.default_schedule,
                image_required=bool(order.needs_picture),
            )
            for name, order in ORDERS.items()
        ],
        image=ImageLimits(
            content_types=["image/png", "image/jpeg", "image/webp"],
            max_bytes=MAX_IMAGE_BYTES,
            min_side=MIN_SIDE,
            max_side=MAX_SIDE,
        ),
        request_schema=JobRequest.model_json_schema(),
    )


def _preset(name: str) -> PresetView:
    config = GENERATION_CONFIGS[name]
    return PresetView(
        name=name,
        order=config.order,
        order_without_image=default_order(config, pictured=False),
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        cfg_scale=config.cfg_scale,
        fps=config.fps,
        section_frames=config.section_frames,
        sizes=[SizeView(width=width, height=height) for height, width in config.buckets],
    )
