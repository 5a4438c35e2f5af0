"""From noise to images: the plan, schedules, guidance, samplers and decoders."""
