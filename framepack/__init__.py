"""FramePack: packed-context next-frame-section video diffusion, as a library.

The paper is arXiv 2504.12626v3, "Frame Context Packing and Drift Prevention in
Next-Frame-Prediction Video Diffusion Models". Importing this package imports no torch: the modules
that only decide (``packing.schedule``, ``generation.orders``, ``generation.plan``,
``media.buckets``) must stay usable in a process that has none.
"""

__version__ = "0.1.0"
