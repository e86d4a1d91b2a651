"""Error analysis: the answers that got worse, by kind of fault and by slice, beside the training rows like them."""
