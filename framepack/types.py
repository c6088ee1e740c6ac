"""Shapes that cross module borders, by name (jaxtyping; checked at run time in the tests).

Axes: ``b`` batch, ``c`` latent channels, ``t`` latent frames, ``h`` ``w`` latent height and width,
``n`` tokens, ``d`` model width, ``p`` rotary pairs (half a head), ``l`` text tokens.
"""

from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

Latents = Float[Tensor, "b c t h w"]
Tokens = Float[Tensor, "b n d"]
Phases = Complex[Tensor, "b n p"]
Positions = Int[Tensor, "b t"]
TextMask = Bool[Tensor, "b l"]
