"""The analytic system model: channel, radio, arrivals, queueing, energy. Pure functions on numpy arrays."""
