"""Remote raw files: a YAML in a raw folder that names a `source` instead of standing next to a data file.

The spec of a snapshot has the hash of each file, so that a remote file must be known before the spec can be computed.
Planning computes specs, too, and must work without a network. So two things are apart:

- Asking. Only the materialization of `raw_<format>`, the sensor and `ft validate` use the network. What they learn is
  written to a small record in the store (records.py): the revision that was downloaded, the hash of its bytes, and the
  newest revision that the source has.
- Planning. It reads the records, and nothing else. A source without a record, or with a newer revision, makes the
  snapshot stale. So a plan needs no network, and the next materialization downloads what is missing.

A pinned source is asked once. Another one is asked by each materialization, and by the sensor at an interval. The bytes
are kept like those of local files, by their hash. If a new revision has the same bytes, the snapshot is the same.

Secrets come from the environment only. declaration.py refuses URLs that contain one before their YAML is stored.
"""
