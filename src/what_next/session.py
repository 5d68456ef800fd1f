"""What a policy must know of one person, so that one event more costs one step of the network."""
