"""Whether acting on scores helps: a share that is held out, and what came of both groups."""
