"""Window -> batch: rows padded or packed into tensors, the layouts that models take them in, and labels."""
