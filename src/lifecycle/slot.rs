//! What a slot does about its assignment: the node's side of the rule of motion.
