"""Text -> token ids: the stage `Tokenize`, the engines that it chooses from, and the formats of rows."""
