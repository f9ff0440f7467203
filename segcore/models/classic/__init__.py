"""Classic methods: models without weights, from before networks learnt; the same signature, tiles -> logits."""
