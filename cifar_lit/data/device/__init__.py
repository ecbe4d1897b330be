"""The parts of the device executor: how each transform draws its parameters, and how batches are moved and painted."""
