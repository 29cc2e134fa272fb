"""Two checkpoints in two formats say the same: shown on prompts with images, as it is written."""
