"""Storage: PostgreSQL and objects, and one store for each kind of thing that is kept in them.

Stores hold no state of their own but a pool (cursors excepted); each method is one statement or one transaction.
"""
