"""Data sets rewritten as TFRecords of smaller images: tools/pack."""
