"""The inbox: what people corrected in served answers, proposed as data, and accepted or rejected by a person."""
