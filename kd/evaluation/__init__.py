"""Numbers about predictions and models, and what they prove."""
