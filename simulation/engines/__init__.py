"""What control planes start: engines and the machines they run on, their versions, manners, exams and pulls."""
