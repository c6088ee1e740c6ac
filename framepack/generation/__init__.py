"""From a request to latents: the plan, the order of sections, the sampler, the section loop."""
