// SPDX-License-Identifier: Apache-2.0
// For each shown part, in whose scope Gradio hands over `element` and `trigger`.
const on = (type, act) => element.addEventListener(type, act);

on('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if ('word' in button.dataset) {
    trigger('word', { word: button.dataset.word });
    document.getElementById('undo-word').scrollIntoView({ behavior: 'smooth', block: 'nearest' });
  } else if ('send' in button.dataset) {
    trigger('sticker', { position: Number(button.dataset.send) });
  } else if ('bundled' in button.dataset) {
    trigger('bundled');
  } else if ('themeSwitch' in button.dataset) {
    document.body.classList.toggle('dark');
  }
});

// Pictures go to the model's process in the message itself, so that no file is ever written there.
const read = (file) => new Promise((done) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(',') + 1));
  reader.onerror = () => done('');
  reader.readAsDataURL(file);
});

const bring = async (list) => {
  const { maxBytes, maxTotal, maxFiles } = element.querySelector('input[type=file]').dataset;
  const few = list.length <= Number(maxFiles);
  const files = [];
  let total = 0;
  for (const file of list) {
    // What the other side would refuse by its size is named to it, but not sent.
    const fits = few && file.size <= Number(maxBytes) && total + file.size <= Number(maxTotal);
    total += fits ? file.size : 0;
    files.push({ name: file.name, size: file.size, data: fits ? await read(file) : null });
  }
  if (files.length) trigger('brought', { files });
};

on('change', (event) => {
  if (event.target.type !== 'file') return;
  bring([...event.target.files]);
  event.target.value = '';
});
on('dragover', (event) => {
  if (!element.querySelector('input[type=file]')) return;
  event.preventDefault();
  element.classList.add('over');
});
on('dragleave', () => element.classList.remove('over'));
on('drop', (event) => {
  if (!element.querySelector('input[type=file]')) return;
  event.preventDefault();
  element.classList.remove('over');
  bring([...event.dataTransfer.files]);
});
