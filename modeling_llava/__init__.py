LlavaConfig = LlavaModel = LlavaForConditionalGeneration = None
