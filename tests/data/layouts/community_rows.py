"""Rows in the form of the published files of judgements of many people."""

SLOTS = ("a", "b", "c", "d")


def turn(name, prompt, answers, best, feedback=""):
    """The fields of one turn of Community Alignment."""
    texts = {f"{name}_turn_response_{s}": text for s, text in zip(SLOTS, answers, strict=True)}
    return {
        f"{name}_turn_prompt": prompt, **texts,
        f"{name}_turn_preferred_response": f"response_{best}" if best else "",
        f"{name}_turn_feedback": feedback,
    }  # fmt: skip


def conversation(*turns, **more):
    """A row of Community Alignment."""
    row = {
        "conversation_id": "garden", "annotator_id": "p1", "assigned_lang": "hi", "wave": "1",
        "is_pregenerated_first_prompt": "True", "in_balanced_subset": "False",
        "annotator_age": "18-34", "annotator_gender": "f", "annotator_education_level": "x",
        "annotator_political": "y", "annotator_ethnicity": "z", "annotator_country": "india",
    }  # fmt: skip
    for own in turns:
        row |= own
    return row | more


def history(*turns):
    """A conversation_history of PRISM, of (prompt, [(text, score, whether it goes on)])."""
    messages = []
    for number, (prompt, answers) in enumerate(turns):
        messages.append({"turn": number, "role": "user", "content": prompt})
        messages += [
            {"turn": number, "role": "model", "content": text, "score": score, "if_chosen": chosen,
             "model_name": "m", "within_turn_id": i}
            for i, (text, score, chosen) in enumerate(answers)
        ]  # fmt: skip
    return messages


def assessments(prompt, answers, *rankings):
    """A row of collective alignment; rankings: (person, personal, world, country)."""

    def block(ranking):
        return [{"ranking": ranking, "rationale": "since"}] if ranking else []

    return {
        "prompt_id": "garden",
        "prompt": {"id": "x", "messages": [{"role": "user", "content": prompt}]},
        "responses": [
            {"response_index": letter, "messages": [{"role": "assistant", "content": text}]}
            for letter, text in zip("ABCD", answers, strict=False)
        ],
        "metadata": {
            "assessments": [
                {"annotator_id": person, "importance": "high", "conversation_id": f"c-{person}",
                 "ranking_blocks": {"personal": block(personal), "world": block(world)},
                 "demographics": {"country_of_residence": country}}
                for person, personal, world, country in rankings
            ]
        },
    }  # fmt: skip
