"""The built-in models: `echo` gives back what it gets, `ner` tags entities in text, `virtual` stands in for a device.
`hf` opens Hugging Face folders.

A model is a plain class; only `forward` is required:

    load(device)            once per worker
    preprocess(**inputs)    one request, CPU      → what forward takes
    forward(batch)          the daemon's batch, on the device
    postprocess(outputs)    one request, CPU      → what the caller gets

docs/MODELS.md tells the whole of it.
"""
