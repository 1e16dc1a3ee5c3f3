"""Layer 4: the neuron lab: which units of a model answer to which concepts, shown and proved."""
