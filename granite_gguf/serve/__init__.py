"""Models behind a service: OpenAI's form of transcription, over HTTP.

    request → guard (key, origin, size) → form → model, loaded on first use → job → answer

Nothing here computes: recordings are handed to :meth:`granite_gguf.Model.submit`, whose scheduler
lets short ones that wait share a pass. Everything of this room runs in one event loop, and only
loading and the jobs themselves in threads. Needs the extra ``serve``.
"""
