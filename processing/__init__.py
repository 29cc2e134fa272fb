LlavaProcessor = None
