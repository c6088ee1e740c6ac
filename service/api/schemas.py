"""The OpenAPI document's examples and what FastAPI cannot derive."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.openai_dialect import OpenAIProblemView
from service.contract.event_views import EVENT_DATA
from service.contract.views import EventView, ProblemView

_ID = "9f0c2f1a5b7d4e61a3c8d2e4f6071829"
_HERE = f"http://127.0.0.1:8000/jobs/{_ID}"

JOB_EXAMPLE: dict[str, Any] = {
    "id": _ID,
    "object": "job",
    "status": "running",
    "created_at": "2026-11-23T10:00:00.120Z",
    "started_at": "2026-11-23T10:00:01.004Z",
    "finished_at": None,
    "expires_at": None,
    "queue_position": None,
    "progress": {
        "sections_sampled": 2,
        "sections_completed": 1,
        "total_sections": 4,
        "section": 2,
        "step": 8,
        "total_steps": 16,
        "percent": 38,
    },
    "eta_seconds": 21.5,
    "input": {
        "prompt": "The girl dances gracefully.",
        "preset": "tiny",
        "seconds": 5.0,
        "steps": None,
        "seed": 31337,
        "order": None,
        "schedule": None,
        "guidance_scale": None,
        "cfg_scale": 1.0,
        "negative_prompt": "",
        "metadata": {"project": "dance"},
    },
    "seed": 31337,
    "metadata": {"project": "dance"},
    "plan": {
        "order": "inverted",
        "schedule": "f1k1_x_g9_f1k1f2k2f16k4_td",
        "num_sections": 4,
        "places": [3, 2, 1, 0],
        "num_frames": 145,
        "fps": 30,
        "width": 64,
        "height": 64,
        "duration_seconds": 4.833,
    },
    "metrics": {
        "queue_seconds": 0.884,
        "gpu_seconds": 18.202,
        "deliver_seconds": 2.915,
        "steps": 32,
        "skipped_steps": 0,
        "peak_vram_bytes": None,
    },
    "clips": [
        {
            "section": 0,
            "first_frame": 121,
            "num_frames": 24,
            "url": f"http://127.0.0.1:8000/files/jobs/{_ID}/deliver/0-1-5f2c91d0.mp4?signature=…",
            "expires_at": "2026-11-23T10:15:20Z",
            "content_type": "video/mp4",
            "size_bytes": 30518,
            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "init_bytes": 803,
        }
    ],
    "video": None,
    "error": None,
    "last_sequence": 8,
    "links": {
        "self": _HERE,
        "events": f"{_HERE}/events",
        "cancel": f"{_HERE}/cancel",
        "pause": f"{_HERE}/pause",
    },
}

DRY_RUN_EXAMPLE: dict[str, Any] = {
    "object": "dry_run",
    "input": {**JOB_EXAMPLE["input"], "seed": None},
    "plan": JOB_EXAMPLE["plan"],
    "estimate": {
        "gpu_seconds": 4.1,
        "backlog_gpu_seconds": 61.5,
        "wait_seconds": 0.0,
        "eta_seconds": 9.4,
        "measured": True,
    },
}

MANIFEST_EXAMPLE: dict[str, Any] = {
    "object": "manifest",
    "version": 1,
    "job_id": _ID,
    "request": {
        "prompt": "The girl dances gracefully.",
        "preset": "tiny",
        "seconds": 5.0,
        "steps": 16,
        "seed": 31337,
        "order": "inverted",
        "schedule": "f1k1_x_g9_f1k1f2k2f16k4_td",
        "size": "64x64",
        "guidance_scale": None,
        "cfg_scale": 1.0,
        "negative_prompt": "",
        "later_prompts": [],
        "quality": "exact",
    },
    "image": {
        "sha256": "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
        "size_bytes": 61204,
        "height": 512,
        "width": 512,
    },
    "num_sections": 4,
    "sampling": {"sampler": "euler", "first_sigma": "1.0", "step_cache": "None"},
    "engines": {
        "render": {
            "fingerprint": "1c2f0a9b7d4e61a3",
            "details": {
                "device": "cpu AVX512",
                "dtype.transformer": "float32",
                "preset": "tiny",
                "version.torch": "2.13.0",
                "weights.transformer": (
                    "baa5a0964d3320fbc0c6a922140453c8513ea24ab8fd0577034804a967248096"
                ),
            },
        },
        "deliver": {"fingerprint": "9a3e5b7c1d2f4068", "details": {"version.av": "18.1.0"}},
    },
    "software": {"framepack-service": "0.1.0", "python": "3.11.7"},
    "video": {
        "sha256": "486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7",
        "size_bytes": 151230,
        "num_frames": 145,
        "fps": 30,
        "height": 64,
        "width": 64,
    },
}

STREAM_EXAMPLE = (
    'id: 8\nevent: snapshot\nretry: 2000\ndata: {"job_id":"…","sequence":8,"type":"snapshot",…}\n\n'
    'event: step\ndata: {"job_id":"…","type":"step","data":{"section":2,"step":9,'
    '"total_steps":16,"total_sections":4}}\n\n'
    'id: 9\nevent: section.completed\ndata: {"job_id":"…","sequence":9,'
    '"type":"section.completed","data":{"section":1,"clip":{"url":"…"}}}\n\n'
)


EVENTS_TOLD = "\n".join(
    [
        "The events; each is an `EventView`, its `data` by the event's name:",
        "",
        "| event | data |",
        "|---|---|",
        *(f"| `{name}` | `{model.__name__}` |" for name, model in EVENT_DATA.items()),
    ]
)

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The tenant's API key."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def complete_document(app: FastAPI) -> None:
    """Add the models that no route returns as its own, and drop answers that are never given."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        document = derive()
        shown: list[type[BaseModel]] = [
            ProblemView,
            OpenAIProblemView,
            EventView,
            *EVENT_DATA.values(),
        ]
        _, schemas = models_json_schema(
            [(model, "serialization") for model in shown],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(schemas["$defs"])
        document["components"]["securitySchemes"] = _SECURITY
        # A service may be open to everybody, which the empty one says.
        document["security"] = [{}, *({name: []} for name in _SECURITY)]
        _drop_foreign_errors(document)
        return document

    # FastAPI's documented way to extend the document.
    app.openapi = openapi  # type: ignore[method-assign]


def _drop_foreign_errors(document: dict[str, Any]) -> None:
    """FastAPI promises a 422 of its own wherever there is a parameter; ours never give it."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for methods in document["paths"].values():
        for operation in methods.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in content:
                del operation["responses"]["422"]
