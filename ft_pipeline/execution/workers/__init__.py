"""The processes that compute artifacts: how they are started, watched and stopped, on this machine or a cluster."""
