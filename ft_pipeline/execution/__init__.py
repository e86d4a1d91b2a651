"""From a spec to an artifact: planning, building, worker processes, device leases."""
