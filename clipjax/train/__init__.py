"""Layer 4: state, step, loop and their set-up."""
