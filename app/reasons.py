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


def in_words(code: str) -> str:
    """The words for a code."""
    return WORDS.get(code) or code.replace("_", " ").capitalize()
