"""What became of files, in words: the codes of a receipt for people. An unknown code is shown without its underscores."""

WORDS = {
    "empty": "Empty file, 0 bytes",
    "too_large": "Larger than allowed",
    "not_an_image": "Not a picture, whatever its name says",
    "unsupported_format": "A picture format that Thaw does not open",
    "too_many_pixels": "More pixels than allowed",
    "truncated": "Broken off before the end",
    "damaged": "Damaged",
    "unsafe_path": "A path that leads out of its folder",
    "control_characters": "Control characters in the name",
    "name_too_long": "Name too long",
    "too_deep": "Too many folders inside each other",
    "bad_name": "A name that cannot be read",
    "duplicate_name": "The same path a second time",
    "link": "A link, not a file",
    "special_file": "A device or pipe, not a file",
    "encrypted": "Encrypted",
    "unknown_compression": "Unknown compression",
    "nested_archive": "An archive inside an archive",
    "damaged_entry": "Does not unpack",
    "junk": "Left behind by an operating system",
    "not_a_picture": "Not a picture (text, table, code)",
    "manifest": "The list of class names, read",
    "manifest_line": "A line of the list that cannot be used",
    "not_in_manifest": "Not in the list of class names",
    "no_class_folder": "In no folder, so without a class",
    "class_name_too_long": "Class name too long",
    "duplicate": "Same bytes as another file of its class",
    "leak": "Same bytes as a file of another split",
    "label_conflict": "Same bytes under two classes",
    "archive_refused": "An archive that was refused",
    "decoder_crashed": "Crashed the decoder",
    "decoder_too_slow": "Took too long to decode",
}

ISSUES = {
    "leaks": (
        "Leaks between splits",
        "The same or nearly the same picture, or one group, on two sides: scores on test would be too high.",
    ),
    "conflicts": (
        "Label conflicts",
        "The same or nearly the same picture under two classes: one of the labels is wrong.",
    ),
    "duplicates": ("Exact duplicates", "Skipped by the upload: each picture is kept once."),
    "near_duplicates": ("Near duplicates", "One picture cropped, mirrored, resized, encoded again or made lighter."),
    "found_later": (
        "Near duplicates found later",
        "Near duplicates that only features have shown. This version stays as it is; a new split and the next version go by them.",
    ),
    "blank": ("Blank", "Nothing to be seen on it."),
    "dark": ("Dark", "Even its bright parts are dark."),
    "overexposed": ("Overexposed", "Even its dark parts are white."),
    "blurry": ("Blurry", "Hardly an edge in it."),
    "tiny": ("Tiny", "The shorter side has under 32 pixels."),
    "odd_aspect": ("Odd shape", "One side is nearly three times as long as the other."),
    "small_classes": ("Small classes", "Under 10 pictures: too few to learn from, and to say how well."),
    "imbalance": ("Imbalance", "The largest class has over 10 times as many pictures as the smallest."),
}


def in_words(code: str) -> str:
    """The words for a code."""
    return WORDS.get(code) or code.replace("_", " ").capitalize()
