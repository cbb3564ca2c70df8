"""Output that belongs to a language: JSON Schemas, regular expressions, grammars, choices (by llguidance).

    Constraint → GrammarCompiler (a trial in a process with limits, then the real thing) → MatcherGrammar

The scheduler feeds a request's grammar each token that was sampled, and asks it which tokens may come next,
while the device computes their logits.
"""
