"""Who this node is: keys and signatures (`keys`, pure), keystores, identities, application keys."""
