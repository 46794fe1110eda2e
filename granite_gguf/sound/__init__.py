"""From a recording to the encoder's input: files → pieces → log-mel frames."""
