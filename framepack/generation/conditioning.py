"""What a whole job is conditioned on: made once, stored once, read by every section.

Stored as tensors and nothing else, bit for bit, so that a section sampled on another machine after
a crash sees exactly what the first one saw.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from framepack.models.base import TextCondition


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt, without padding.

    Attributes:
        text: (1, l, text width) states of the text encoder.
        pooled: (1, pooled width) pooled text.
    """

    text: Float[Tensor, "1 l i"]
    pooled: Float[Tensor, "1 j"]


@dataclass(frozen=True)
class Conditioning:
    """Everything the encoders made.

    Attributes:
        prompts: In the order sections name them.
        negative: The negative prompt; only used, and only present, when cfg_scale is not 1.
        image: (1, n, image width) states of the image encoder for the start picture; zeros without
            one.
        start: (1, c, 1, h, w) latent of the start picture, fp32; zeros without one.
    """

    prompts: tuple[Prompt, ...]
    negative: Prompt | None
    image: Float[Tensor, "1 n k"]
    start: Float[Tensor, "1 c 1 h w"]

    def positive_condition(self, prompt: int) -> TextCondition:
        """Conditioning of the positive branch for one of the prompts."""
        return self._condition(self.prompts[prompt])

    def negative_condition(self) -> TextCondition:
        """Conditioning of the negative branch.

        Raises:
            ValueError: There is none.
        """
        if self.negative is None:
            raise ValueError("this conditioning was made without a negative prompt")
        return self._condition(self.negative)

    def _condition(self, prompt: Prompt) -> TextCondition:
        return TextCondition(text=prompt.text, pooled=prompt.pooled, image=self.image)

    def to_tensors(self) -> dict[str, Tensor]:
        """Flat names to tensors, for a safetensors file."""
        named = {f"prompt.{i}": prompt for i, prompt in enumerate(self.prompts)}
        if self.negative is not None:
            named["negative"] = self.negative
        tensors = {"image": self.image, "start": self.start}
        for name, prompt in named.items():
            tensors[f"{name}.text"] = prompt.text
            tensors[f"{name}.pooled"] = prompt.pooled
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Conditioning:
        """The inverse of `to_tensors`.

        Raises:
            KeyError: A tensor is missing.
        """

        def prompt(name: str) -> Prompt:
            return Prompt(tensors[f"{name}.text"], tensors[f"{name}.pooled"])

        count = sum(name.startswith("prompt.") and name.endswith(".text") for name in tensors)
        return cls(
            prompts=tuple(prompt(f"prompt.{i}") for i in range(count)),
            negative=prompt("negative") if "negative.text" in tensors else None,
            image=tensors["image"],
            start=tensors["start"],
        )
