"""Talking to language models: the OpenAI-protocol client, vLLM's command line and control, the server role."""
