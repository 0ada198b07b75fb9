"""Binary gates that learn: what they look like to autograd, how they are chosen, what they cost."""
