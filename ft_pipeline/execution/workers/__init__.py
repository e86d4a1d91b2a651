"""The processes that compute artifacts: start, watch and stop them, on this machine or a cluster."""
