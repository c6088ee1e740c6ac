"""How history becomes a bounded context: schedules, patchify kernels, rotary phases."""
