"""The metadata keys of our files; ``{arch}`` in one stands for the architecture's name."""

from __future__ import annotations


class Keys:
    """Metadata keys, grouped as the format groups them."""

    class General:
        ARCHITECTURE = "general.architecture"
        ALIGNMENT = "general.alignment"
        TYPE = "general.type"
        NAME = "general.name"
        BASENAME = "general.basename"
        SIZE_LABEL = "general.size_label"
        FILE_TYPE = "general.file_type"
        QUANTIZATION_VERSION = "general.quantization_version"

    class CTC:
        VOCAB_SIZE = "{arch}.ctc.vocab_size"
        VOCAB = "{arch}.ctc.vocab"

    class Source:
        LAYOUT = "{arch}.source.layout"
        REVISION = "{arch}.source.revision"
        ARCHITECTURE = "{arch}.source.architecture"
        VARIANT = "{arch}.source.variant"
        FILE = "{arch}.source.file"

    class Quantize:
        POLICY = "{arch}.quantize.policy"
        IMATRIX_FILE = "quantize.imatrix.file"
        IMATRIX_DATASET = "quantize.imatrix.dataset"
        IMATRIX_ENTRIES = "quantize.imatrix.entries_count"
        IMATRIX_CHUNKS = "quantize.imatrix.chunks_count"

    class Imatrix:
        DATASETS = "imatrix.datasets"
        CHUNK_COUNT = "imatrix.chunk_count"
        CHUNK_SIZE = "imatrix.chunk_size"

    class Tokenizer:
        MODEL = "tokenizer.ggml.model"
        PRE = "tokenizer.ggml.pre"
        TOKENS = "tokenizer.ggml.tokens"
        MERGES = "tokenizer.ggml.merges"
        TOKEN_TYPE = "tokenizer.ggml.token_type"
        BOS = "tokenizer.ggml.bos_token_id"
        EOS = "tokenizer.ggml.eos_token_id"
        PAD = "tokenizer.ggml.padding_token_id"
        CHAT_TEMPLATE = "tokenizer.chat_template"
        HUGGINGFACE = "tokenizer.huggingface.json"
