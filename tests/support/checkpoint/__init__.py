"""A random Granite Speech NAR checkpoint, in the exact on-disk form of each published layout.

    sizes ──▶ weights ──▶ layouts ──▶ safetensors_file ──▶ model.safetensors
      │    (canonical names,  (one layout's
      │     one random stream  keys and rows)
      │     per name)
      ├─────▶ configs ────▶ config.json, preprocessor_config.json or processor_config.json
      └─────▶ tokenizer ──▶ tokenizer.json, tokenizer_config.json, ... vocab.json, merges.txt

For one size and seed every layout holds the same weights, so outputs can be compared across them.
"""
