"""Rules: from files to one typed condition tree, and from there to a matcher.

    content.py   files -> RuleSet, with limits         yamlsafe.py  bounded YAML with line numbers
    sigma.py     Sigma front-end (through pySigma)     fields.py    field names, log sources, events
    condition.py the tree                              values.py    what a value in a document means
    reference.py naive truth, the oracle of the tests  matcher.py   the stream matcher
    program.py   one event's rules, compiled           scan.py, decide.py, guards.py, valuetests.py  its parts
    linear.py    regular expressions, in linear time
    samples.py   a rule's own samples                  explain.py   a rule for people

Nothing but sigma.py imports pySigma, and only content.py imports sigma.py, when it loads.
"""
