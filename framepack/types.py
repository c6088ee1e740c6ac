"""Shapes that cross module borders, by name (jaxtyping; checked at run time in the tests).

Axes: ``b`` batch, ``c`` latent channels, ``t`` latent frames, ``h`` ``w`` latent height and width,
``n`` tokens, ``m`` tokens of the text stream, ``d`` model width, ``s`` those that rotate,
``p`` rotary pairs (half a head), ``l`` text tokens.
"""

from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

Latents = Float[Tensor, "b c t h w"]
Tokens = Float[Tensor, "b n d"]
TextTokens = Float[Tensor, "b m d"]
ReadTokens = Float[Tensor, "b _ d"]
"""A part of a sequence that is read of it."""
Phases = Complex[Tensor, "b s p"]
Positions = Int[Tensor, "b t"]
TextMask = Bool[Tensor, "b l"]
JointMask = Bool[Tensor, "b *k"]
"""Keys of the joint sequence that exist, (b, k), or that a query may see, (b, q, k)."""
