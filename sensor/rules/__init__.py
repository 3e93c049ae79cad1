"""Rules: from files to one typed condition tree, and from there to a matcher.

    files.py     rule files found and read             content.py   files -> RuleSet, with limits
    yamlsafe.py  bounded YAML with line numbers        plain.py     RuleSet <-> plain data
    sigma.py     Sigma front-end (through pySigma)     fields.py    field names, log sources, events
    condition.py the tree                              values.py    what a value in a document means
    reference.py naive truth, the oracle of the tests  matcher.py   the stream matcher
    program.py   one event's rules, compiled           scan.py, decide.py, guards.py, valuetests.py  its parts
    linear.py    regular expressions, in linear time
    samples.py   a rule's own samples                  explain.py   a rule for people
    auditd.py    records of auditd as our events       eventtime.py when an event happened
    correlation.py, correlation_state.py, correlation_windows.py    rules about several events

Nothing but sigma*.py and correlation_read.py imports pySigma, and only content.py imports those, when it loads.
"""
