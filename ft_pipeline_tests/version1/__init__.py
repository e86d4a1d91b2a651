"""Records of comparison.json as version 1 had them: what tests build, and what they compare results with."""
