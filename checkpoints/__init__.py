"""Two backbones in, a LLaVA on disk out; nothing that was saved is ever lost."""
