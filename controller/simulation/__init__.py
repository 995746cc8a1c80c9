"""The parts of the simulator: channel states, the tandem of events, slots in batches, results."""
