"""No number of the catalogue is lost."""

from __future__ import annotations

import re
from pathlib import Path

#: Sections 2.1 to 2.4; the catalogue's numbers have gaps.
CATALOGUE = {
    "C": [*range(1, 14), *range(22, 33)],
    "M": [1, 2, 4, 6, 7, 8, 9, 15, 16, 17, 18, 19, 20, 21],
    "I": [1, 2, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21],
    "S": [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
}


def test_every_number_of_the_catalogue_has_a_test() -> None:
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name]
    found = {
        (letter.upper(), int(number))
        for text in texts
        for letter, number in re.findall(r'(?:f?"|def test_)([CMISmis])(\d\d)(?=["_ -])', text)
    }
    wanted = {(letter, number) for letter, numbers in CATALOGUE.items() for number in numbers}
    assert wanted - found == set()
