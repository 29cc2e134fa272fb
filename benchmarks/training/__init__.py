"""`llavakit bench`: training by `LlavaSFTTrainer` and by stock trl, whole trainers side by side.

presets: sizes ──> material: a model, its transformers twin, rows ──> arms: trainers ──> lockstep: a step each, in turn
                                                                                   ──> apart: each in a process
                                                                                   ──> report: bench.json and a table
"""
