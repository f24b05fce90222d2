"""The train step against torch: loss, gradient, AdamW and schedule together, over several steps."""
