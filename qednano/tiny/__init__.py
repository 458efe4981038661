"""The tiny proof task: problems, an exact checker, an imperfect teacher, a tokenizer and a model that learns it."""
