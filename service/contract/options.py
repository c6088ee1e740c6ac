"""What a request may choose at one deployment, for forms and clients that offer the choice.

Everything here is read off the library's own configuration and the request's own schema, so that a
form can neither offer what would be refused nor leave out what is new.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service.contract.views import View


class SizeView(View):
    """A video size in pixels."""

    width: int
    height: int


class PresetView(View):
    """A preset this deployment serves, with the defaults of what a request leaves out.

    Attributes:
        sizes: The video takes the one whose shape is nearest to the picture's, or to the one asked
            for.
        order_without_image: Order of a request that names none and has no picture.
        guidance_scale: None where the model has no distilled guidance.
        section_frames: Frames a section makes; a video is whole sections and the picture.
    """

    name: str
    order: str
    order_without_image: str
    steps: int
    guidance_scale: float | None
    cfg_scale: float
    fps: int
    section_frames: int
    sizes: list[SizeView]


class OrderView(View):
    """A sampling order and the packing schedule it takes when a request names none.

    Attributes:
        image_required: Whether it needs a start picture; others can make text-to-video.
    """

    name: str
    schedule: str
    image_required: bool


class ImageLimits(View):
    """What a picture may be."""

    content_types: list[str]
    max_bytes: int
    min_side: int
    max_side: int


class OptionsView(View):
    """The choices of a request.

    Attributes:
        request_schema: JSON Schema of the request's fields, with their limits and defaults.
    """

    presets: list[PresetView]
    orders: list[OrderView]
    image: ImageLimits
    request_schema: dict[str, Any] = Field(json_schema_extra={"additionalProperties": True})
