"""Falco's rule language as a front-end: from its YAML items to the condition tree of all rules.

    syntax.py    a condition's text -> its tree            items.py    items of files, appended and overridden
    names.py     macros, lists and exceptions resolved     frontend.py items -> Rule, Refused, Unsupported
    views.py     a hidden text, compared by predicates     events.py   evt.type -> events and what tells them apart
    fields.py    Falco's fields -> views, for each event   bounds.py   what is certain where a field is not carried
    arguments.py the arguments of calls (evt.arg)          vocabulary.py fields that are not carried
    processes.py names and command lines as Falco shows them; patterns.py texts, globs, paths; kernel.py numbers
    output.py    message templates                         tosigma.py  a rule as Sigma

lark is imported by syntax.py alone, when the first condition is parsed.
"""
